"""`mode=listen`: head CT as a node where scans arrive: the trial of Titano et al. (2018), live. Extra `listen`.

journal.py   what was done so far, in SQLite: a process that is killed goes on and does nothing twice
store.py     the files that arrived, under hashed names; disk and retention
node.py      the DICOM node: C-ECHO, C-STORE, storage commitment
"""
