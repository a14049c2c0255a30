"""The audit of a model before its release: what of its training file it recites, beside text that it never saw.

Files -> `documents` -> `passages` -> one pass of the model -> `facts` -> what follows from them, each in a module of
its own, without the model -> `result`, with a verdict, as JSON, a page and a summary in Markdown.
"""
