"""Programs for a checkout: the demo of the dbt package, and what a release needs."""
