"""A finished run as it is handed on: without records, in half precision, with its licence."""
