"""`neuralbot test RECIPE`: a minute's proof of a recipe before a night's run.

rows          8 training rows that stress: the longest, the shortest, some between
    learning      a small run over them, by the code of the whole one; its speed
    serving       the saved run, read back as `neuralbot chat` does it, beside the model that was trained
    estimate      steps, time, memory and disk of the whole run
    checks        what is printed of each check
    command       all of it in order
"""
