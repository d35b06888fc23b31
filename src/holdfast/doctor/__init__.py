"""What is wrong with this machine, its network or the accounts, and how to mend it."""
