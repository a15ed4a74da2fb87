"""Measures pictures: does a model draw what a prompt says, and does the picture book's checker find the emblem?"""
