"""Training one net, and preparing one store, with several processes (section 4.2)."""
