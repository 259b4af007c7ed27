"""Proof that emitted manifests admit nothing that Rego refuses, from the manifests' text alone."""
