"""Recipes and overrides: valid ones are resolved, invalid ones are reported with value, constraint and fix."""

from pathlib import Path

import pytest

from buffer.errors import ConfigError
from deploy.cluster.placement_shares import gpu_shares, shares_problem
from deploy.config import RunConfig, find_recipe, load_recipe, parse_config, resumed_config, shown_config
from deploy.driver.check_objective import check_objective

RECIPES = sorted(find_recipe("demo").parent.glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_shipped_recipe_loads(path: Path) -> None:
    assert isinstance(load_recipe(str(path)), RunConfig)


def test_a_resolved_configuration_reads_back_as_itself() -> None:
    config = load_recipe("demo")
    assert parse_config(config.model_dump(mode="json", exclude_none=True), "again") == config


def test_overrides_reach_their_field_in_toml_types() -> None:
    config = load_recipe(
        "demo", ["learner.steps=7", "learner.learning_rate=2e-4", "policy.stop=,", "task.options={largest=9}"]
    )
    assert (config.learner.steps, config.learner.learning_rate, config.policy.stop) == (7, 2e-4, ",")
    assert config.task.options == {"largest": 9}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("learner.stepz=3", ["learner.stepz = 3 is not a setting", "steps"]),
        ("lerner.steps=3", ["lerner", "not a setting", "learner"]),
        ("learner.steps=many", ["learner.steps = 'many'", "integer"]),
        ("learner.steps=0", ["learner.steps = 0", "greater than or equal to 1"]),
        ("learner.learning_rate=nan", ["learner.learning_rate", "finite"]),
        (
            "learner.batch_size=30000",
            ["learner.batch_size = 30000", "buffer.capacity = 20000", "Raise buffer.capacity"],
        ),
        ("buffer.min_size_to_sample=30000", ["min_size_to_sample = 30000", "wait forever"]),
        ("policy.min_actions=4", ["policy.min_actions = 4", "policy.max_actions = 3"]),
        ("learner.publish_every=1000", ["learner.publish_every = 1000", "base model"]),
        ('policy.forbidden_tokens=["."]', ["policy.stop = '.'", "no string could end"]),
        (f"policy.forbidden_tokens={[str(n) for n in range(120)]}", ["forbidden_tokens", "at most 119"]),
        (f"policy.allowed_tokens={[str(n) for n in range(120)]}", ["allowed_tokens", "at most 119"]),
        ("learner.objective=ppo", ["learner.objective = 'ppo'", "subtb", "module:function of your own"]),
        ("actors.behaviours=[]", ["actors.behaviours", "at least 1"]),
        ("nonsense", ["'nonsense'", "section.setting=value"]),
        ("seed.x=1", ["'seed.x=1'", "not a section"]),
    ],
)
def test_an_invalid_override_is_reported_with_value_and_constraint(override: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as raised:
        load_recipe("demo", [override])
    assert all(word in str(raised.value) for word in words), str(raised.value)


def test_an_override_reaches_an_advanced_setting() -> None:
    config = load_recipe("demo", ["buffer.advanced.evict=lowest_priority", "actors.advanced.cpus=1.0"])
    assert (config.buffer.advanced.evict, config.actors.advanced.cpus) == ("lowest_priority", 1.0)


@pytest.mark.parametrize(
    ("old", "table"),
    [
        ("buffer.evict=oldest", "buffer.advanced"),
        ("actors.max_restarts=3", "actors.advanced"),
        ("learner.weight_decay=0.1", "learner.advanced"),
        ("rewards.cache_size=5", "rewards.advanced"),
    ],
)
def test_the_error_for_a_setting_in_its_old_place_names_the_new_one(old: str, table: str) -> None:
    place, name = old.partition("=")[0], old.partition("=")[0].partition(".")[2]
    with pytest.raises(ConfigError, match=rf"{place} is now {table}\.{name}\. Move it into the table \[{table}\]"):
        load_recipe("demo", [old])


def test_all_problems_of_a_recipe_are_reported_at_once(tmp_path: Path) -> None:
    recipe = tmp_path / "bad.toml"
    recipe.write_text('[learner]\nstepz = 1\nbatch_size = "64"\n')
    with pytest.raises(ConfigError, match=r"(?s)stepz.*batch_size"):
        load_recipe(str(recipe))


def test_an_invalid_toml_file_is_reported_with_the_line(tmp_path: Path) -> None:
    recipe = tmp_path / "bad.toml"
    recipe.write_text("[learner\n")
    with pytest.raises(ConfigError, match=r"bad\.toml.*line 1"):
        load_recipe(str(recipe))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_recipe_with_bom_is_read(tmp_path: Path, end: str) -> None:
    recipe = tmp_path / "notepad.toml"
    recipe.write_bytes(b"\xef\xbb\xbf" + end.join(["# née", "[learner]", "steps = 7", ""]).encode())
    assert load_recipe(str(recipe)).learner.steps == 7


def test_a_recipe_in_another_encoding_or_without_a_readable_path_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "powershell.toml").write_text("[learner]\n", encoding="utf-16")
    with pytest.raises(ConfigError, match=r"powershell\.toml'.* encoded as UTF-16\. Save it as UTF-8\.$"):
        load_recipe(str(tmp_path / "powershell.toml"))
    (tmp_path / "latin.toml").write_text("# n\xe9e\n", encoding="latin-1")
    with pytest.raises(ConfigError, match=r"latin\.toml'.* byte 3 \(0xe9, line 1\) is not UTF-8\. Save it as UTF-8\.$"):
        load_recipe(str(tmp_path / "latin.toml"))
    for path in (str(tmp_path), "x" * 5000, "a\0b"):
        with pytest.raises(ConfigError, match="neither a file nor a shipped recipe"):
            load_recipe(path)


def test_the_error_for_an_unknown_recipe_lists_the_shipped_ones() -> None:
    with pytest.raises(ConfigError, match="demo"):
        load_recipe("no-such-recipe")


def test_a_behaviour_called_on_policy_can_be_nothing_else() -> None:
    with pytest.raises(ConfigError, match="on_policy must have temperature 1"):
        load_recipe("demo", ['actors.behaviours=[{name="on_policy",weight=1.0,suppress_stop=true}]'])


def test_a_batch_that_ranks_cannot_divide_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"batch_size = 64 can't be divided among learner.ranks = 3"):
        load_recipe("demo", ["learner.ranks=3"])


@pytest.mark.parametrize("objective", ["subtb", "tb", "db"])
def test_min_actions_with_an_objective_of_single_strings_is_refused(objective: str) -> None:
    with pytest.raises(ConfigError, match=r"min_actions = 1 strings that differ before.*share no.*'group_subtb'"):
        load_recipe("demo", [f"learner.objective={objective}", "policy.min_actions=1"])


def test_ranks_that_would_share_a_gpu_and_weights_that_overflow_are_refused() -> None:
    with pytest.raises(ConfigError, match="ranks can't share a GPU"):
        load_recipe("demo", ["learner.ranks=2", "learner.gpus=0.5"])
    match = r"learner.advanced.subtb_lambda = 10 to the power of policy.max_actions = 100 overflows"
    with pytest.raises(ConfigError, match=match):
        load_recipe("demo", ["learner.objective=subtb", "learner.advanced.subtb_lambda=10.0", "policy.max_actions=100"])


def test_a_resumed_run_may_change_how_it_learns_and_not_what() -> None:
    values = shown_config(load_recipe("demo"))
    assert resumed_config(values, ["learner.steps=500"], "c").learner.steps == 500
    assert values["learner"]["steps"] == 160, "the values passed in are not changed"
    for override in ("model.lora_rank=8", "policy.max_actions=4", "task.options.largest=10", "seed=5"):
        section = override.split(".")[0].split("=")[0]
        with pytest.raises(ConfigError, match=f"{section} can't change when a run is resumed"):
            resumed_config(values, [override], "c")


def test_a_capacity_beyond_the_longest_string_of_redis_is_refused() -> None:
    assert load_recipe("demo", ["buffer.capacity=7000000"]).buffer.capacity == 7_000_000
    with pytest.raises(ConfigError, match=r"buffer\.capacity = 7000001"):
        load_recipe("demo", ["buffer.capacity=7000001"])


def test_a_resumed_run_may_not_change_to_an_objective_that_reads_rewards_it_did_not_keep() -> None:
    values = shown_config(load_recipe("demo", ["learner.objective=vargrad"]))
    assert resumed_config(values, ["learner.objective=vargrad"], "c").learner.objective == "vargrad"
    for name in ("subtb", "group_subtb", "tb", "db"):
        with pytest.raises(ConfigError, match=f"can't change from 'vargrad' to '{name}' .* log R of their prefixes"):
            resumed_config(values, [f"learner.objective={name}"], "c")
    assert resumed_config(shown_config(load_recipe("demo")), ["learner.objective=vargrad"], "c")


@pytest.mark.parametrize("override", ["rewards.length_penalty=0.5", "rewards.adapter=elsewhere"])
def test_a_resumed_run_may_not_change_what_log_r_is_but_may_change_the_weights_of_its_terms(override: str) -> None:
    values = shown_config(load_recipe("demo"))
    name = override.split("=")[0]
    with pytest.raises(ConfigError, match=f"{name} can't change from .* holds log R of the old target"):
        resumed_config(values, [override], "c")
    assert resumed_config(values, ["rewards.weights={digits = 0.5}"], "c").rewards.weights == {"digits": 0.5}


def test_an_objective_of_ones_own_is_imported_before_the_start() -> None:
    own = load_recipe("demo", ["learner.objective=learner.objectives.vargrad:vargrad"])
    check_objective(own, prompts=20, whole_strings_only=True)
    for name, words in (("nowhere:loss", "can't be imported"), ("learner.config:OBJECTIVE_NAMES", "is no function")):
        with pytest.raises(ConfigError, match=f"{name}.*{words}"):
            check_objective(load_recipe("demo", [f"learner.objective={name}"]), prompts=20, whole_strings_only=False)


@pytest.mark.parametrize(
    "overrides",
    [
        ["learner.fresh_fraction=0.0"],
        ["actors.samples_per_prompt=1"],
        ["actors.samples_per_prompt=1", "learner.fresh_fraction=1.0", "buffer.rows_per_prompt=4"],
    ],
)
@pytest.mark.parametrize("objective", ["vargrad", "group_subtb"])
def test_an_objective_that_compares_strings_is_refused_where_no_two_of_a_prompt_meet(
    objective: str, overrides: list[str]
) -> None:
    common = [f"learner.objective={objective}", "policy.min_actions=1", "buffer.rows_per_prompt=1"]
    check_objective(load_recipe("demo", common), prompts=20, whole_strings_only=False)
    recipe = load_recipe("demo", [*common, *overrides])
    check_objective(recipe, prompts=1, whole_strings_only=False)  # all of its strings are of that prompt
    with pytest.raises(ConfigError, match="no two meet in a batch"):
        check_objective(recipe, prompts=20, whole_strings_only=False)
    more = ["buffer.rows_per_prompt=4", "learner.fresh_fraction=0.5"]
    check_objective(load_recipe("demo", [*common, *overrides, *more]), prompts=20, whole_strings_only=False)


def test_ranking_by_reward_is_refused_where_prompts_would_be_compared() -> None:
    recipe = load_recipe("demo", ["buffer.advanced.sampler=highest_reward"])
    check_objective(recipe, prompts=1, whole_strings_only=False)
    with pytest.raises(
        ConfigError, match=r"ranks the strings of all 20 prompts together.*learner\.priority = 'reward'"
    ):
        check_objective(recipe, prompts=20, whole_strings_only=False)


def test_a_policy_gradient_is_refused_where_others_than_its_own_fresh_strings_may_be_learned_from() -> None:
    alone = ["learner.objective=pg", "learner.fresh_fraction=1.0", 'actors.behaviours=[{name="on_policy", weight=3.0}]']
    check_objective(load_recipe("demo", alone), prompts=20, whole_strings_only=False)
    with pytest.raises(ConfigError, match=r"samples_per_insert = 1 makes both sides wait: set it to 0"):
        limited = load_recipe("demo", [*alone, "buffer.samples_per_insert=1.0"])
        check_objective(limited, prompts=20, whole_strings_only=False)
    with pytest.raises(ConfigError, match="replays old ones: set it to 1"):
        check_objective(
            load_recipe("demo", [*alone, "learner.fresh_fraction=0.9"]), prompts=20, whole_strings_only=False
        )
    hot = 'actors.behaviours=[{name="on_policy", weight=1.0}, {name="hot", weight=1.0, temperature_high=2.0}]'
    with pytest.raises(ConfigError, match="has hot: leave on_policy alone"):
        check_objective(load_recipe("demo", [*alone, hot]), prompts=20, whole_strings_only=False)
    with pytest.raises(ConfigError, match="no two meet in a batch"):
        check_objective(
            load_recipe("demo", [*alone, "actors.samples_per_prompt=1"]), prompts=20, whole_strings_only=False
        )


@pytest.mark.parametrize("recipe", ["arithmetic", "arithmetic-gpu", "subjectivity", "subjectivity-gpu"])
def test_recipes_with_a_shortest_length_replay_several_strings_of_a_prompt(recipe: str) -> None:
    assert load_recipe(recipe).buffer.rows_per_prompt == 4


def test_a_resumed_run_does_not_turn_samples_into_demonstrations() -> None:
    values = shown_config(load_recipe("demo", ['task.demonstrations="given.jsonl"']))
    with pytest.raises(ConfigError, match="between 'sft' and another"):
        resumed_config(values, ["learner.objective=sft"], "c")


def test_a_resumed_run_asks_for_the_password_that_its_folder_does_not_keep() -> None:
    values = shown_config(load_recipe("demo", ["buffer.url=redis://:secret@example:6379"]))
    with pytest.raises(ConfigError, match="Give it again"):
        resumed_config(values, [], "c")
    assert resumed_config(values, ["buffer.url=redis://example:6379"], "c").buffer.url == "redis://example:6379"


def test_auto_is_bfloat16_where_actors_have_gpus_and_a_runs_folder_keeps_what_it_was() -> None:
    assert load_recipe("demo").model.dtype == "float32"
    on_gpu = load_recipe("demo", ["actors.gpus=0.4"])
    assert on_gpu.model.dtype == "bfloat16"
    assert resumed_config(shown_config(on_gpu), ["actors.gpus=0.0"], "c").model.dtype == "bfloat16"


@pytest.mark.parametrize("section", ["learner", "rewards"])
@pytest.mark.parametrize("device", ["cuda:1", "mps", "nonsense", ""])
def test_a_device_is_auto_cpu_or_cuda(section: str, device: str) -> None:
    with pytest.raises(ConfigError, match=rf"{section}\.device = '{device}' must be one of auto, cpu, cuda"):
        load_recipe("demo", [f'{section}.device="{device}"'])


def test_float32_on_gpus_is_refused_with_the_reason() -> None:
    with pytest.raises(ConfigError, match=r"model\.dtype = 'float32' .*LoRA kernels .* Set model\.dtype to bfloat16"):
        load_recipe("demo", ["actors.gpus=0.4", "model.dtype=float32"])
    load_recipe("demo", ["actors.gpus=0.4", "model.dtype=float32", "actors.engine=simulated"])
    load_recipe("demo", ["learner.gpus=0.4", "model.dtype=float32"])


@pytest.mark.parametrize("path", [p for p in RECIPES if p.stem.endswith("-gpu")], ids=lambda p: p.stem)
def test_recipes_for_gpus_are_in_bfloat16_and_share_one_gpu(path: Path) -> None:
    config = load_recipe(str(path))
    assert config.model.dtype == "bfloat16"
    assert shares_problem(config, 1) is None and min(share for share, _ in gpu_shares(config)) > 0


def test_a_password_in_the_redis_url_is_not_shown() -> None:
    config = load_recipe("demo", ["buffer.url=redis://:s3cret@127.0.0.1:6379/0"])
    assert "s3cret" not in str(shown_config(config)) and "127.0.0.1:6379" in str(shown_config(config))
