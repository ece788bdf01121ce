"""Which machine code may run here: what this user compiled, or said to be trusted, known by a key that only this user has."""
