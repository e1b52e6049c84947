"""The operations that decide the speed, each beside its plain reference."""
