"""Stage report: manifests to one page."""
