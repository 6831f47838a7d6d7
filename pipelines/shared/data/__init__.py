"""From a dataset on disk to data that can be learned from or scored.

`records` is the record table, `tables` reads tables of any kind; `assemble` closes leaks, splits and prepares; `cache`
keeps prepared arrays; `images` and `dicom_files` read files; `phantoms` and `cards` are about the datasets themselves.
No torch.
"""
