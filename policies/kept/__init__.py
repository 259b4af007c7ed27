"""What earlier compilations came to, kept by what it follows from, so that only what changed is done again.

A workload's formulas follow from the rules that can hold for it, from what is known of it, and from the
places of data that evaluation read (`rules`, `reads`, `evaluations`); its objects from the formulas, target,
options and inventory; the verdict on it from all these and from the text of the objects near it (`proofs`).
Each is a row under a digest of just that, with the compiler's own sources (`shelf`). A row that is missing,
damaged or of another version is as good as none.

What is kept are outcomes, never formulas: whatever has to be proved again is first evaluated again. Where the
rows are, and who may write there, is the caller's business.
"""
