"""The runtimes, one file each; one is loaded when it is first needed."""
