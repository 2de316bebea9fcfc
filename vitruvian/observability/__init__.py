"""Names and meanings of what is measured: one source for the code, the dashboards and the alerts."""
