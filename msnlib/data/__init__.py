"""Data: data sets as tasks (:mod:`msnlib.data.registry`), read from files (:mod:`msnlib.data.readers`)."""
