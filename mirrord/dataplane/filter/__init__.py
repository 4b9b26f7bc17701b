"""Which frames are wanted: rules, the programs that the kernel runs for them, and the matcher that defines them."""
