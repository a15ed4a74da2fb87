"""Measures the picture-book checkpoint: does it draw what a prompt says, and does its checker find the emblem?"""
