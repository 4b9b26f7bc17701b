"""`mirrorctl`: asks the daemon and shows its answer. A file is one kind of question.

Exit status: 0 done, 1 refused or failed, 2 bad usage, 3 the daemon cannot be reached.
"""
