"""Nodules in small pictures: a study on a folder of pictures, as small as a study can be."""
