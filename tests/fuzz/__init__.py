"""Fuzzing of everything that reads what someone else wrote: bills, manifests, settings, records, SQL, addresses, MLflow's answers.

Each target (`targets.py`) is one surface: a function of bytes that calls the library as a command would, and an invariant:

* it ends with an answer or with a `RunspendError` (or with the documented exception of that function), never with another one;
* it ends in time, and without hundreds of megabytes (`guard.py`);
* it writes nothing outside its work folder, starts no process and opens no connection but to this machine;
* money and rows are conserved where a surface has them: what is loaded and what is quarantined make up the bill.

`corpus/<target>/` holds small inputs: seeds written by the tests' own helpers, inputs that reach other code, and every input that
once failed (its name begins with `regression-` and says what it was). They are replayed by `make test`.

    make fuzz                                       every target for 60 s, then those that found something are named
    make fuzz ARGS="yaml googlesql --seconds 600"   two targets, ten minutes each
    make fuzz ARGS="yaml --input FILE"              one input again, with its traceback

With atheris (`pip install -r tests/fuzz/requirements.txt`) the search is guided by the coverage of the library; without it the same
mutations run blindly from the corpus. Inputs that failed are written to `.fuzz/`, which git ignores. To keep one: make it small, copy
it to the corpus under a name that says what it was, and mend the library.

To add a surface: write a function `(data: bytes, work: Path) -> None`, and add it to `TARGETS` with its seeds.
"""
