"""The paper's claims, each with the rule that judges it: code, and the sentence that a reader is shown (`studies.scorecard`)."""
