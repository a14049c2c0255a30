"""A model that only answers: an endpoint is asked, within its budget, and its answers are audited."""
