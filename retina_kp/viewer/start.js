// Where it begins: in a page with a scene, in a notebook with a widget's model.

/** What a kind of scene adds to the stage. */
const TOOLS = { annotate: Annotate, matches: Matches, labels: Labels, pairs: Pairs };

/** Show a scene in an element; send: gives messages to Python. Returns the stage. */
function show(root, scene, send) {
  const stage = new Stage(root, scene, send);
  const Tool = TOOLS[scene.kind];
  if (Tool) stage.tool = new Tool(stage);
  return stage;
}

/** The view of a widget: `scene` comes anew with another pair, `state` and `extra` with every change. */
function render({ model, el }) {
  let stage = null;
  const update = () => stage.tool?.update?.(model.get("state"));
  const extend = () => stage.setExtra(model.get("extra"));
  const begin = () => {
    const focused = el.contains(document.activeElement), root = make("div");
    stage?.stop();
    el.replaceChildren(root);
    stage = show(root, model.get("scene"), (message) => model.send(message));
    extend();
    update();
    if (focused) stage.panes[0].canvas.focus({ preventScroll: true });
  };
  const heard = { "change:scene": begin, "change:state": update, "change:extra": extend };
  for (const [name, act] of Object.entries(heard)) model.on(name, act);
  begin();
  return () => {
    stage.stop();
    for (const [name, act] of Object.entries(heard)) model.off(name, act);
  };
}

export default { render };
