"""Programs for preparing a release. Tests check that what they generate is up to date."""
