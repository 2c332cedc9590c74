"""Distributed training and cohort scoring for brain age.

Scans become a store, a store trains a model, a model scores a store.
"""
