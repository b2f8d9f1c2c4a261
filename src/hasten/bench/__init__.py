"""Measuring: which engine is faster, is it right, and do we know? In goes a model with inputs and the names of engines, out comes a `results.Run`.

    experiment           the whole of it: `measure`
    peer, peers          what an engine must offer; a file for each engine
    worker, process      an engine in a process of its own: its side of the pipes, and ours
    reference, compare   what is right (float64), and how far from it an answer is
    inputs, checks       answers are checked before and after the rounds, and must follow the inputs
    machine              whether times taken now mean anything
    rounds               the design; turns in random order until verdicts are in
    statistics, verdict  intervals that hold at any time of looking; better, same, undecided
    results              the records; all else (store, export, summary, report, gate) starts from them

A new engine is a file in `peers` and a row of its table.
"""
