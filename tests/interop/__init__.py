"""Certificates judged by what nobody here wrote.

cases       what is judged: every profile x CA key kind x subject key kind, and negative twins
panel       the judges, and how each is asked
gaps        what each says of each twin, and where it cannot judge, with the reason
matrix      all of that, as it is printed at the end of a run
judge.go, Judge.java, judge.mjs, lint
            the judges that are libraries: each is asked all cases at once
"""
