"""Prediction: what a model will recite, told from its context or from its decode, before the truth is looked at.

traces, counts, other runs' bits -> examples -> splits -> predictors -> chain -> calibration -> predictions
"""
