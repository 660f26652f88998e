from measuring import Row
def measure(workshop):
    yield from ()
