"""Labels from source: follows the variables of a module's `forward` without running it.

A value is a set of tags that say what it is made of: a matrix's product, an activation of it, a part of it, scores, what an
attention gave, a gated product. Where it meets another, what each matrix is becomes known. Names of attributes are not looked at.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections import defaultdict
from typing import Any, Final

import torch
from torch import nn

Tags = frozenset[tuple[Any, ...]]
NOTHING: Final[Tags] = frozenset()
ACTIVATION: Final = re.compile(
    r"^(?:gelu|silu|relu6?|leaky_relu|elu|selu|sigmoid|tanh|swish|mish|softplus|hardswish|quick_gelu|glu)_?$|^ACT2FN$",
    re.I,
)
ACTING: Final = re.compile(r"act|gelu|silu|relu|sigmoid|tanh|swish|mish", re.I)
ATTENDS: Final = re.compile(
    r"attention_interface|eager_attention_forward|scaled_dot_product_attention|flash_attention|attention_fn|^sdpa|flex_attention"
    r"|^attn_interface|^_?attn$|^(?:_?compute|core)_attention$|^dot_product_attention",
)
PRODUCT: Final = {"matmul", "bmm", "einsum", "baddbmm", "mm", "einsum_"}
TURNS: Final = re.compile(r"rot|rope|pos_emb|^update$|^expand_kv$", re.I)
"""Functions that give back as many tensors as they take, in the same order."""


def labels(module: nn.Module) -> dict[str, set[str]]:
    """What the source of a module's ``forward`` says of the matrices that it holds, by the attribute's name.

    Attributes of which it says nothing, or two different things, are absent.
    """
    return _labels_of(type(module), module)


def _labels_of(cls: type, module: nn.Module) -> dict[str, set[str]]:
    reader = _Reader(module)
    try:
        reader.run(cls.forward)  # type: ignore[attr-defined]
    except (OSError, TypeError, SyntaxError, RecursionError):
        return {}
    return {name: kinds for name, kinds in reader.labels.items() if kinds}


class _Reader:
    def __init__(self, module: nn.Module):
        self.module = module
        self.labels: dict[str, set[str]] = defaultdict(set)
        self.returned: Tags = NOTHING
        self.depth = 0

    # Statements.

    def run(self, function: Any, arguments: dict[str, Tags] | None = None) -> Tags:
        source = textwrap.dedent(inspect.getsource(inspect.unwrap(function)))
        tree = ast.parse(source).body[0]
        assert isinstance(tree, ast.FunctionDef)
        before, self.returned = self.returned, NOTHING
        names = [a.arg for a in (*tree.args.posonlyargs, *tree.args.args, *tree.args.kwonlyargs)]
        env: dict[str, Tags] = dict.fromkeys(names, NOTHING) | {"self": NOTHING} | (arguments or {})
        self.body(tree.body, env)
        out, self.returned = self.returned, before
        return out

    def body(self, statements: list[ast.stmt], env: dict[str, Tags]) -> None:
        for statement in statements:
            self.statement(statement, env)

    def statement(self, s: ast.stmt, env: dict[str, Tags]) -> None:
        if isinstance(s, ast.Assign):
            for target in s.targets:
                self.assign(target, s.value, env)
        elif isinstance(s, ast.AnnAssign) and s.value is not None:
            self.assign(s.target, s.value, env)
        elif isinstance(s, ast.AugAssign):
            value = self.binary(s.op, self.value(s.target, env), self.value(s.value, env))
            if isinstance(s.target, ast.Name):
                env[s.target.id] = value
        elif isinstance(s, ast.Return) and s.value is not None:
            self.returned |= self.value(s.value, env)
        elif isinstance(s, ast.Expr):
            self.value(s.value, env)
        elif isinstance(s, ast.If):
            self.value(s.test, env)
            other = dict(env)
            self.body(s.body, env)
            self.body(s.orelse, other)
            for name in {*env, *other}:
                env[name] = env.get(name, NOTHING) | other.get(name, NOTHING)
        elif isinstance(s, (ast.For, ast.While)):
            if isinstance(s, ast.For):
                self.bind(s.target, self.value(s.iter, env), env)
            self.body(s.body, env)
        elif isinstance(s, (ast.With, ast.Try)):
            self.body(s.body, env)

    def assign(self, target: ast.expr, value: ast.expr, env: dict[str, Tags]) -> None:
        if isinstance(target, (ast.Tuple, ast.List)):
            n = len(target.elts)
            if isinstance(value, (ast.Tuple, ast.List)) and len(value.elts) == n:
                several = [self.value(v, env) for v in value.elts]
                for t, v in zip(target.elts, several, strict=True):
                    self.bind(t, v, env)
                return
            if isinstance(value, (ast.GeneratorExp, ast.ListComp)) and isinstance(
                value.generators[0].iter, (ast.Tuple, ast.List)
            ):
                self.assign(target, value.generators[0].iter, env)
                return
            if isinstance(value, ast.Call) and TURNS.search(_name(value.func)):
                given = [self.value(a, env) for a in value.args] + [self.value(k.value, env) for k in value.keywords]
                for t, v in zip(target.elts, given, strict=False):
                    self.bind(t, v, env)
                return
            whole = self.value(value, env)
            if any(tag[0] == "lin" for tag in whole):
                for i, t in enumerate(target.elts):
                    self.bind(t, frozenset(("part", tag[1], i, n) if tag[0] == "lin" else tag for tag in whole), env)
                return
            self.bind(target.elts[0], whole, env)
            for t in target.elts[1:]:
                self.bind(t, NOTHING if any(tag[0] in ("attn", "done") for tag in whole) else whole, env)
            return
        self.bind(target, self.value(value, env), env)

    def bind(self, target: ast.expr, value: Tags, env: dict[str, Tags]) -> None:
        if isinstance(target, ast.Name):
            env[target.id] = value
        elif isinstance(target, (ast.Tuple, ast.List)):
            for t in target.elts:
                self.bind(t, value, env)
        elif isinstance(target, ast.Subscript) and isinstance(target.value, ast.Name):
            env[target.value.id] = env.get(target.value.id, NOTHING) | value
        elif isinstance(target, ast.Starred):
            self.bind(target.value, value, env)

    # Expressions.

    def value(self, e: ast.AST | None, env: dict[str, Tags]) -> Tags:
        if e is None or isinstance(e, ast.Constant):
            return NOTHING
        if isinstance(e, ast.Name):
            return env.get(e.id, NOTHING)
        if isinstance(e, ast.Attribute):
            attribute = _self(e)
            if attribute and isinstance(getattr(self.module, attribute, None), torch.Tensor):
                return frozenset([("weight", attribute)])
            return self.value(e.value, env)
        if isinstance(e, ast.Subscript):
            found = self.value(e.value, env)
            key = ast.dump(e.slice)
            return frozenset(
                ("part", tag[1], key, 0) if tag[0] == "lin" and ("Slice" in key or "Constant" in key) else tag
                for tag in found
            )
        if isinstance(e, ast.BinOp):
            return self.binary(e.op, self.value(e.left, env), self.value(e.right, env))
        if isinstance(e, ast.Call):
            return self.call(e, env)
        if isinstance(e, ast.IfExp):
            return self.value(e.body, env) | self.value(e.orelse, env)
        return frozenset().union(
            *(self.value(child, env) for child in ast.iter_child_nodes(e) if isinstance(child, ast.expr))
        )

    def binary(self, op: ast.operator, a: Tags, b: Tags) -> Tags:
        if isinstance(op, ast.MatMult):
            return self.product(a, b)
        if isinstance(op, ast.Mult):
            return self.times(a, b)
        return a | b

    def times(self, a: Tags, b: Tags) -> Tags:
        for one, two in ((a, b), (b, a)):
            acting, plain = _of(one, "act"), _of(two, "lin", "part")
            if acting and plain and not _of(two, "act") and {t[1:] for t in acting} != {t[1:] for t in plain}:
                for tag in acting:
                    self.say(tag, "ffn_gate")
                for tag in plain:
                    self.say(tag, "ffn_up")
                return frozenset([("gated",)])
            if acting and _of(two, "attn"):
                for tag in acting:
                    self.say(tag, "attn_gate")
                return two
        return a | b

    def say(self, tag: tuple[Any, ...], kind: str) -> None:
        self.labels[tag[1]].add(kind)

    def product(self, a: Tags, b: Tags) -> Tags:
        for one, two in ((a, b), (b, a)):
            if _of(one, "weight"):
                return self.apply([t[1] for t in _of(one, "weight")], two)
        for one, two in ((a, b), (b, a)):
            if _of(one, "score"):
                for tag in _of(two, "lin", "part"):
                    self.say(tag, "attn_v")
                return frozenset([("attn",)])
        left, right = _of(a, "lin", "part"), _of(b, "lin", "part")
        if left and right:
            for tag in left:
                self.say(tag, "attn_q")
            for tag in right:
                self.say(tag, "attn_k")
            return frozenset([("score",)])
        return a | b

    def apply(self, attributes: list[str], given: Tags) -> Tags:
        for attribute in attributes:
            if _of(given, "attn"):
                self.labels[attribute].add("attn_o")
            elif _of(given, "gated"):
                self.labels[attribute].add("ffn_down")
            elif acting := _of(given, "act"):
                self.labels[attribute].add("ffn_out")
                for tag in acting:
                    self.say(tag, "ffn_in")
        if _of(given, "attn", "gated", "act"):
            return frozenset([("done",)])
        return frozenset(("lin", attribute) for attribute in attributes)

    def call(self, e: ast.Call, env: dict[str, Tags]) -> Tags:
        given = [self.value(a.value if isinstance(a, ast.Starred) else a, env) for a in e.args]
        named = {k.arg or "": self.value(k.value, env) for k in e.keywords}
        every: Tags = frozenset().union(*given, *named.values())
        name = _name(e.func)
        own = _self(e.func)
        if (
            ATTENDS.search(name)
            and len(given) + len(named) > 2
            and not isinstance(getattr(self.module, own, None), nn.Module)
        ):
            return self.attend(e, given, named)
        if own:
            return self.own_call(own, given, named, every)
        if isinstance(e.func, ast.Attribute):
            on = self.value(e.func.value, env)
            if name == "baddbmm" and len(given) + len(named) >= 2:
                return self.product(*[*given, *(v for k, v in named.items() if k.startswith("batch"))][-2:])
            if name in PRODUCT and (on or len(given) == 1):
                return self.product(on, every)
            if name == "mul":
                return self.times(on, every) if on else self.times(given[0], given[1])
            if ACTIVATION.search(name):
                return _act(on | every)
            if name in PRODUCT and name == "einsum" and len(given) >= 3:
                return self.product(given[1], given[2])
            if name in PRODUCT and len(given) >= 2:
                return self.product(given[-2], given[-1])
            if name in ("linear", "_grouped_mm", "grouped_mm") and len(given) >= 2:
                return self.product(given[1], given[0])
            if name == "softmax" and (on | every):
                return on | every
            if name in ("size", "dim", "shape", "numel", "item", "new_zeros", "expand_as_missing", "zeros_like"):
                return NOTHING
            return on | every
        if name in PRODUCT and len(given) >= 2:
            return self.product(given[-2], given[-1])
        if ACTIVATION.search(name) or ACTING.search(name):
            return _act(every)
        if isinstance(e.func, ast.Subscript):  # ACT2FN[...](x), self.act[i](x)
            return _act(every) if ACTING.search(ast.dump(e.func)) else every
        return every

    def own_call(self, own: str, given: list[Tags], named: dict[str, Tags], every: Tags) -> Tags:
        thing = getattr(self.module, own, None)
        if isinstance(thing, nn.Module):
            first = given[0] if given else every
            if _is_matrix(thing):
                return self.apply([own], first)
            if not any(True for _ in thing.parameters()) and ACTING.search(type(thing).__name__ + own):
                return _act(every)
            return first
        if inspect.ismethod(thing) and self.depth < 3:
            self.depth += 1
            try:
                names = list(inspect.signature(thing).parameters)
                if ATTENDS.search(own):
                    return self.attend(None, given, named)
                return self.run(thing.__func__, dict(zip(names, given, strict=False)) | named) | NOTHING
            except (OSError, TypeError, AssertionError, ValueError):
                return every
            finally:
                self.depth -= 1
        if callable(thing) and ACTING.search(own):
            return _act(every)
        return every

    def attend(self, e: ast.Call | None, given: list[Tags], named: dict[str, Tags]) -> Tags:
        three = [_first(named, *names) for names in (("query", "q", "query_states"), ("key", "k"), ("value", "v"))]
        positional = given
        if e is not None and e.args and isinstance(e.args[0], ast.Name) and e.args[0].id in ("self", "module"):
            positional = given[1:]
        rest = iter(positional)
        three = [tags if tags is not None else next(rest, NOTHING) for tags in three]
        for tags, kind in zip(three, ("attn_q", "attn_k", "attn_v"), strict=True):
            for tag in _of(tags or NOTHING, "lin", "part"):
                self.say(tag, kind)
        return frozenset([("attn",)])


def _first(named: dict[str, Tags], *names: str) -> Tags | None:
    return next((named[name] for name in names if name in named), None)


def _of(tags: Tags, *sorts: str) -> list[tuple[Any, ...]]:
    return [tag for tag in tags if tag[0] in sorts]


def _act(tags: Tags) -> Tags:
    return frozenset(("act", *tag[1:]) if tag[0] in ("lin", "part") else tag for tag in tags)


def _name(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _self(e: ast.expr) -> str:
    return e.attr if isinstance(e, ast.Attribute) and isinstance(e.value, ast.Name) and e.value.id == "self" else ""


def _is_matrix(module: nn.Module) -> bool:
    own = [p for p in module._parameters.values() if p is not None and p.dim() > 1]
    return len(own) == 1 and not isinstance(module, nn.Embedding) and not any(True for _ in module.children())
