"""Reports over time: which step changed a value, told from noise, and values that fall slowly."""
