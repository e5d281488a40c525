"""Two threads on one model: what each gets beside the other. ``python -m tests.threads --tries 1000`` runs many."""
