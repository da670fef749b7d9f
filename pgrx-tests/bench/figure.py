"""What a measurement yields: one row of the table, one bar of the plot."""

from dataclasses import asdict, dataclass


@dataclass
class Figure:
    """`ours` and `peer` are in `unit`; a ratio is ours / peer, `low` and `high` its quartiles."""

    what: str
    against: str
    unit: str
    ours: float
    peer: float
    ratio: float = None
    low: float = None
    high: float = None
    #: The ratio to reach, and words for it where "at most" does not say it.
    target: float = None
    note: str = ""
    goal: str = ""
    #: Where more than the ratio decides whether the goal is reached.
    reached: bool = None
    #: Tells more about another row: in the table only.
    aside: bool = False
    group: str = ""

    @property
    def met(self):
        if self.reached is not None or self.target is None or self.ratio is None:
            return self.reached
        return self.ratio <= self.target

    @property
    def aim(self):
        return self.goal or ("" if self.target is None else f"≤ {self.target}")

    @property
    def verdict(self):
        return {None: "", True: "reached", False: "missed"}[self.met]

    def as_row(self):
        return asdict(self)
