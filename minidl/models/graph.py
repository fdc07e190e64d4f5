"""Graphs of layers: the calls of a functional model, in the order of their execution."""

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple, Self

from minidl.arguments import free_name
from minidl.engine import ops
from minidl.engine.tensor import Tensor, apply
from minidl.layers import Input, Layer
from minidl.layers.symbol import Call, Symbol
from minidl.trainer.fusion import stages, through

Numbers = Sequence[int]  # of the values in a graph
Shapes = Sequence[tuple[int, ...]]  # of values, without the batch

MAX_OUTPUTS = 1000  # of one call, so that a damaged file cannot ask for all memory


class Node(NamedTuple):
    """Call of a layer, or of several, each on the result of the one before it.

    All values have numbers: first the inputs of the graph, then the results of the nodes.
    """

    layers: tuple[Layer, ...]
    arguments: tuple[int, ...]
    is_list: bool  # whether the first layer receives a list
    results: tuple[int, ...]
    gives_list: bool  # whether the last layer returns a list

    def run(self, values: dict[int, Tensor]) -> None:
        """Add the results to the values by number."""
        found = [values[number] for number in self.arguments]
        x = through(stages(self.layers), found if self.is_list else found[0])
        values.update(zip(self.results, x if self.gives_list else [x], strict=True))


class Branches(Layer):
    """Part of a graph from one tensor to another; it may begin with all inputs, packed, as well.

    Parameters
    ----------
    nodes : sequence of Node
        The calls.
    entries, exits : sequence of int
        The numbers of the values that it takes and returns; several are returned in a list.
    shapes : sequence of tuple
        The shapes of the entries, without the batch.
    """

    def __init__(self, nodes: Sequence[Node], entries: Numbers, exits: Numbers, shapes: Shapes):
        super().__init__()
        self.nodes, self.entries, self.exits = tuple(nodes), tuple(entries), tuple(exits)
        self.shapes = tuple(shapes)

    @property
    def label(self) -> str:
        """The names of the first and the last layer."""
        return f"{self.nodes[0].layers[0].label} to {self.nodes[-1].layers[-1].label}"

    def call(self, x: Tensor) -> Any:
        """Return the tensor, or the list of tensors, at the exits."""
        values = dict(zip(self.entries, _unpacked(x, self.shapes), strict=True))
        for node in self.nodes:
            node.run(values)
        found = [values[number] for number in self.exits]
        return found if len(found) > 1 else found[0]


def packed(tensors: Sequence[Tensor]) -> Tensor:
    """Return several tensors side by side in one tensor of shape (batch, numbers)."""
    flat = [x.reshape(len(x), math.prod(x.shape[1:])) for x in tensors]
    return apply(ops.concatenate, *flat, axis=1)


def _unpacked(x: Tensor, shapes: Shapes) -> list[Tensor]:
    """Return the tensors that `packed` joined; with one shape, the tensor itself."""
    if len(shapes) == 1:
        return [x]
    ends = itertools.accumulate(map(math.prod, shapes), initial=0)
    return [
        x[:, start:stop].reshape(len(x), *shape)
        for shape, (start, stop) in zip(shapes, itertools.pairwise(ends), strict=True)
    ]


class Graph:
    """Calls of layers between inputs and outputs.

    Parameters
    ----------
    inputs : sequence of Input
        The inputs, whose values have the numbers 0, 1 and so on.
    layers : sequence of Layer
        The layers in the order of summaries and files: that of Keras.
    calls : sequence of tuple
        For each call the index of its layer, the numbers of its arguments, whether they are a list,
        and the number of its results in a list, or None.
    outputs : sequence of int
        The numbers of the outputs.

    Raises
    ------
    TypeError, ValueError
        If a number is not that of an earlier value, or an input is not used.
    """

    def __init__(
        self,
        inputs: Sequence[Input],
        layers: Sequence[Layer],
        calls: Sequence[Sequence[Any]],
        outputs: Numbers,
    ):
        self.inputs, self.layers, self.outputs = tuple(inputs), tuple(layers), tuple(outputs)
        self.calls = [tuple(call) for call in calls]
        self.shapes: list[Any] = [each.shape[1:] for each in inputs]
        self.names = unique_names(each.name or "input_layer" for each in inputs)
        self.nodes, known = list[Node](), len(inputs)
        for index, arguments, is_list, results in self.calls:
            _check_numbers(arguments, 0, known)
            _check_numbers([index], 0, len(layers))
            count = 1 if results is None else results
            _check_numbers([count], 1, MAX_OUTPUTS)
            numbers = tuple(range(known, known + count))
            parts = tuple(arguments), bool(is_list), numbers, results is not None
            self.nodes.append(Node((layers[index],), *parts))
            known += len(numbers)
        _check_numbers(self.outputs, len(inputs), known)
        self._uses = Counter([a for node in self.nodes for a in node.arguments])
        unused = [name for n, name in enumerate(self.names) if not self._uses[n]]
        if unused:
            raise ValueError(f"expected inputs that the outputs depend on, got {unused[0]}")
        self._uses.update(self.outputs)
        self.chain = list(self._parts())

    @classmethod
    def of(cls, who: str, inputs: Any, outputs: Any) -> "Graph":
        """Return the graph between symbols.

        Raises
        ------
        TypeError
            If `inputs` are not of `Input`, or `outputs` are not results of layers.
        ValueError
            If an output depends on another input, an input is not used, or is given twice.
        """
        inputs, outputs = (
            list(s) if isinstance(s, list | tuple) else [s] for s in (inputs, outputs)
        )
        for symbol in inputs:
            if not isinstance(symbol, Input):
                raise TypeError(
                    f"{who}: expected inputs of Input, got {symbol!r:.80}. Use a list of them."
                )
        for symbol in outputs:
            if not isinstance(symbol, Symbol) or symbol.made_by is None:
                raise TypeError(
                    f"{who}: expected outputs that layers return for symbols, got {symbol!r:.80}. "
                    "Use a list of them; losses, metrics and targets may go by the layers' names."
                )
        if not inputs or not outputs or len(set(inputs)) < len(inputs):
            raise ValueError(f"{who}: expected inputs and outputs, each input once.")
        calls, layers = _in_order(outputs)
        numbers: dict[tuple[Any, int], int] = {(x, 0): n for n, x in enumerate(inputs)}
        places = {layer: index for index, layer in enumerate(layers)}
        rows = []
        for call in calls:
            for symbol in call.arguments:
                if _origin(symbol) not in numbers:
                    raise ValueError(
                        f"{who}: expected a connected graph, but {call.layer.label} depends on "
                        f"{symbol!r}, which is not among the inputs. Add it to inputs."
                    )
            arguments = [numbers[_origin(symbol)] for symbol in call.arguments]
            rows.append((places[call.layer], arguments, call.is_list, call.results))
            for place in range(call.results or 1):
                numbers[call, place] = len(numbers)
        try:
            return cls(inputs, layers, rows, [numbers[_origin(symbol)] for symbol in outputs])
        except ValueError as error:
            raise ValueError(f"{who}: {error}. Leave it out.") from error

    @property
    def ends(self) -> list[Layer]:
        """The layers that return the outputs."""
        makers = {n: node.layers[-1] for node in self.nodes for n in node.results}
        return [makers[number] for number in self.outputs]

    def sources(self, layer: Layer) -> list[str]:
        """Return the names of inputs and layers whose values a layer receives."""
        names = dict(enumerate(self.names))
        names |= {n: node.layers[-1].label for node in self.nodes for n in node.results}
        calls = (node for node in self.nodes if node.layers == (layer,))
        return [names[number] for node in calls for number in node.arguments]

    def _runs(self) -> list[Node]:
        """Return the nodes, with layers that follow each other in one node."""
        runs: list[Node] = []
        for node in self.nodes:
            before = runs[-1] if runs else None
            if (
                before is not None
                and not (before.is_list or before.gives_list or node.is_list)
                and node.arguments == before.results
                and self._uses[node.arguments[0]] == 1
            ):
                arguments, layers = before.arguments, before.layers + node.layers
                runs[-1] = node._replace(layers=layers, arguments=arguments)
            else:
                runs.append(node)
        return runs

    def _parts(self) -> Iterator[Layer]:
        """Yield the layers where the graph is a chain, and `Branches` where it is not."""
        runs, uses = self._runs(), self._uses.copy()
        group, entries = list[Node](), tuple(range(len(self.inputs)))
        live = set(entries)
        for run in runs:
            group.append(run)
            uses.subtract(run.arguments)
            live = {number for number in {*live, *run.results} if uses[number] > 0}
            is_last = run is runs[-1]
            if not is_last and live != {run.results[0]}:
                continue
            exits = self.outputs if is_last else tuple(live)
            is_chain = (group, run.arguments, run.results) == ([run], entries, exits)
            if is_chain and not (run.is_list or run.gives_list):
                yield from run.layers
            else:
                shapes = self.shapes if entries[0] == 0 else [()]
                yield Branches(group, entries, exits, shapes)
            group, entries = [], exits


class FromSymbols:
    """The part of `Model` that makes models of symbols: ``Model(inputs, outputs)``."""

    functional: ClassVar[type]

    def __new__(cls, *arguments: Any, **options: Any) -> Self:
        """Return a new object, of `functional` if that is set for the class itself."""
        is_graph = arguments or {"inputs", "outputs"} & options.keys()
        return super().__new__(vars(cls).get("functional", cls) if is_graph else cls)

    def __init__(self, *arguments: Any, **options: Any):
        """Raise TypeError for symbols: only `functional` and its subclasses take them."""
        if arguments or {"inputs", "outputs"} & options.keys():
            raise TypeError(
                f"{type(self).__name__}: expected keyword arguments such as seed in "
                "super().__init__, got inputs or outputs. For these, subclass models.Functional."
            )
        super().__init__(**options)


def _origin(symbol: Symbol) -> tuple[Any, int]:
    """Return the call and the place among its results; an input stands for itself."""
    return symbol if symbol.made_by is None else symbol.made_by, symbol.place


def _in_order(outputs: Sequence[Symbol]) -> tuple[list[Call], list[Layer]]:
    """Return the calls that outputs depend on, and their layers in the order of Keras.

    A call follows those that it depends on. Layers are sorted by their distance from the outputs,
    and then by the order in which they are found from the outputs.
    """
    calls, found, done = list[Call](), dict[Layer, int](), set[Call]()
    stack = [symbol.made_by for symbol in reversed(outputs)]
    entered = set[Call]()
    while stack:
        call = stack[-1]
        if call is None or call in done:
            stack.pop()
        elif call in entered:
            done.add(call)
            calls.append(call)
        else:
            entered.add(call)
            found.setdefault(call.layer, len(found))
            stack += [symbol.made_by for symbol in reversed(call.arguments)]
    distance, of_layer = Counter[Call](), Counter[Layer]()
    for call in reversed(calls):
        distance[call] = of_layer[call.layer] = max(distance[call], of_layer[call.layer])
        for symbol in call.arguments:
            if symbol.made_by is not None:
                before = symbol.made_by
                distance[before] = max(distance[before], distance[call] + 1)
    return calls, sorted(found, key=lambda layer: (-of_layer[layer], found[layer]))


def _check_numbers(numbers: Sequence[Any], low: int, high: int) -> None:
    for number in numbers:
        if type(number) is not int or not low <= number < high:
            raise ValueError(f"expected a number in [{low}, {high}), got {number!r:.80}")


def unique_names(names: Iterable[str]) -> list[str]:
    """Return names, with ``_1``, ``_2`` and so on after those that occur again."""
    found: list[str] = []
    for name in names:
        found.append(free_name(name, found))
    return found
