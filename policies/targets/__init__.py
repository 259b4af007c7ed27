"""Targets: a question and an inventory in, plain objects out. One module a target; `registry` lists them."""
