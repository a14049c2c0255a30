"""Results drawn: terminal tables, figures, and a page. Nothing here computes a statistic."""
