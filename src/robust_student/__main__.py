"""`python -m robust_student` is the command `robust-student`."""

from robust_student.cli import main

if __name__ == "__main__":
    main()
