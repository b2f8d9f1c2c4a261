"""Functions in a subset of Python, for what ONNX cannot express: recursion, data types, functions that are values. See docs/functions.md.

    function    the decorator, and what it makes
    source      texts and errors that point into them
    scope       the state of reading; tables of what Python's syntax means
    values      what expressions stand for;  data: values of data types;  types: annotations
    operators, expressions, calls, onnx_operators, models      expressions
    statements, branches, matching, loops                      statements
    callees, instances                                         calls of functions, recursion
    entry       a function as a traced model
"""
