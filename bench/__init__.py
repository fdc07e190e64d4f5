"""What minidl's routines cost, measured and predicted. Run from a checkout of the repository."""
