"""Which functions of a script are known: those that a worker which imports it knows as well."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.definition.building import Importer, importer

__all__ = ["importer"]

SCRIPT = """
    from celery import Celery
    from celery_saga import Saga, SagaManager
    from celery_saga.errors import DefinitionError
    from celery_saga.definition.planner import build_plan

    app = Celery("shop", broker="memory://", backend="cache+memory://")
    sagas = SagaManager(app)

    def pay(context): ...
    def only_later(context): ...

    checkout = Saga("script", steps=[pay, lambda context: None]).commit()

    def report(saga):
        try:
            print(*[step.action.task for step in build_plan(saga, app).steps])
        except DefinitionError as error:
            print("refused" if "could not find" in str(error) else error)

    def main():
        report(checkout)
        report(Saga("later", steps=[only_later]).commit())
        report(Saga("later", steps=[lambda context: None]).commit())

    if __name__ == "__main__":
        main()
"""


class TestScript:
    @pytest.mark.parametrize("how", [["{folder}/shop.py"], ["shop.py"], ["-m", "shop"]])
    def test_code_outside_of_its_guard_is_known(
        self, how: list[str], importer: Importer, tmp_path: Path
    ) -> None:
        importer.write(SCRIPT, "shop")
        output = importer.run(*[part.format(folder=tmp_path) for part in how])
        assert output.splitlines() == ["saga:shop.pay saga:script.1.action", "refused", "refused"]

    def test_a_program_that_runs_a_function_of_a_module_does_not_import(
        self, importer: Importer
    ) -> None:
        importer.write(SCRIPT, "shop")
        importer.write('import shop\nif __name__ == "__main__":\n    shop.main()', "program")
        assert importer.run("program.py").splitlines()[1:] == ["refused", "refused"]

    def test_an_interactive_session_does_not_import(self, importer: Importer) -> None:
        output = importer.run_code(SCRIPT)
        assert output.splitlines() == ["refused"] * 3
