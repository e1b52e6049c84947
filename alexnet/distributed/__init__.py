"""What several processes need that train one net (section 4.2)."""
