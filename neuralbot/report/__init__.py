"""What is told about a run, made from the files of its folder alone: report.html, report.md, README.md, loss.png.

    run         the folder's files, read once
    outcome     scores before and after, the paired test, answers that changed
    facts       all that the report says, as texts and tables
    page        the same as one HTML page; page.html.jinja, page.css
    summary     the same as Markdown
    model_card  README.md, as model hubs read it
    plot        the charts
    words       names and numbers for people; markdown: its syntax
    files       all of them written; commands: `neuralbot report`

Nothing is measured or loaded here. What a page needs to know, the run has to write.
"""
