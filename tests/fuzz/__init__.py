"""Fuzzing of all code that reads data from outside: bills, manifests, settings, records, SQL, addresses, and MLflow's answers.

Each target (`targets.py`) is one surface: a function of bytes that calls the library as a command would. These invariants hold:

* It ends with an answer, with a `RunspendError`, or with the documented exception of that function.
* It ends in time, and without hundreds of megabytes (`guard.py`).
* It writes nothing outside its work folder, starts no process and connects only to this machine.
* It loses no money and no rows: the loaded and the quarantined rows together are the bill.

`corpus/<target>/` holds small inputs: seeds from the tests' own helpers, inputs that reach other code, and every input that once failed.
The latter have names that begin with `regression-` and describe the failure. `make test` replays all of them.

    make fuzz                                       fuzz every target for 60 s, then name those that failed
    make fuzz ARGS="yaml googlesql --seconds 600"   fuzz two targets for ten minutes each
    make fuzz ARGS="yaml --input FILE"              replay one input, and show its traceback

With atheris (`pip install -r tests/fuzz/requirements.txt`), the library's coverage guides the search. Without it, the same mutations of
the corpus are random. Failed inputs are written to `.fuzz/`, which git ignores. To keep one, make it small, copy it to the corpus under a
name that describes it, and fix the library.

To add a surface, write a function `(data: bytes, work: Path) -> None`, and add it to `TARGETS` with its seeds.
"""
