"""The programs that run outside the evaluating process, and what they share.

Everything here runs under `python -I -S` with the directory above on the path, so it imports the standard library
only, and little of it: start-up is most of the cost of a short program (`typing`, `signal`, `json` and `subprocess`
would add 4 to 20 ms each).
"""
