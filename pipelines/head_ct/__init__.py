"""Head CT triage (Titano et al., 2018)."""
