"""Cohorts: maps of every scan of a data set, on one machine or on a cluster.

`dataset` finds the scans; `jobs` says what is to be made of one, `methods` what of that is no
model, and `state` whether it is done; `work` does it; `derivatives` names and writes what BIDS
calls derivatives; `memory` says what a process needs, `cluster` opens Dask where there is one,
`run` hands the jobs out and `totals` counts them; `group`, `rois` and `overview` look at all scans
together. Dask is imported by `cluster` and `run` alone, when used.
"""
