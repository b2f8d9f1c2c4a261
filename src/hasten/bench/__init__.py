"""Measuring engines so that the answer can be trusted. Models, inputs and engines go into `experiment.measure`; a `results.Run` of raw samples comes out.

    experiment   a whole measurement; with it process and worker (engines in processes of their own), rounds, checks, machine, reference (float64)
    peers        one file for each engine; a new engine is a file there, or an entry point of another package (see `peer`)
    statistics   intervals that hold at any time of looking; verdict judges two engines by them
    summary      a run judged: what tables, reports and gates are made from
    store        where runs are kept; keep writes them while they are measured; export gives samples to other programs
    report       a page, Markdown, JSON; a new form is a function in `report.FORMS`
    changes      two runs beside each other; gate guards with them

Only `hasten.cli` prints.
"""
