"""Model files: one reader a kind, behind one interface (source.py); open.py opens whichever it is."""
