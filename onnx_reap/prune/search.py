"""From a goal to a pruned model: what is estimated first, and which search reaches the goal."""

from onnx_reap.measure.accuracy_loss import LossEstimator, loss_estimator
from onnx_reap.prune.accuracy_search import deepest_goal, search_accuracy
from onnx_reap.prune.apply import Pruned, apply_choice
from onnx_reap.prune.context import Run
from onnx_reap.prune.decide import decide, estimate
from onnx_reap.prune.goal import Goal
from onnx_reap.prune.latency_search import check_latency, search_latency
from onnx_reap.prune.pruning_curves import PruningCurves


def curves_for(run: Run, goal: Goal) -> tuple[Goal, PruningCurves]:
    """Find out what removing channels costs, as deep as a search for the goal will go."""
    goal = check_latency(run, goal)
    with run.clock("choose"):
        return goal, estimate(run, [deepest_goal(goal, run.analysis)])


def loss_estimator_for(run: Run, goal: Goal) -> LossEstimator | None:
    """Make the function that tells what a model lost, if the goal bounds that; else None."""
    if goal.max_drop is None:
        return None
    return loss_estimator(run.form.original, run.samples, run.settings)


def reach(
    run: Run, goal: Goal, curves: PruningCurves, loss_of: LossEstimator | None
) -> tuple[Pruned, Goal]:
    """Prune a model as far as a goal asks for; return also the budget of a latency search."""
    if goal.latency is not None:
        goal = search_latency(run, goal, curves)
    if loss_of is not None:
        return search_accuracy(run, goal, curves, loss_of), goal
    return apply_choice(run, decide(run, goal, curves)), goal
