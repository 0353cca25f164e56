"""A code census: child runs read the files of a source, and the parent run adds up their reports.

sources  what can be read, and the split of its files into shares
reader   reads and tokenises the files of one share
totals   adds reports up into the progress that the page shows
"""
