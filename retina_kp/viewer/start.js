// Where it begins: in a page with a scene, in a notebook with a widget's model.

/** What a kind of scene adds to the stage. */
const TOOLS = {};

/** Show a scene in an element; send: gives messages to Python. Returns the stage. */
function show(root, scene, send) {
  const stage = new Stage(root, scene, send);
  const Tool = TOOLS[scene.kind];
  if (Tool) stage.tool = new Tool(stage);
  return stage;
}

/** The view of a widget: `scene` comes anew with another pair, `state` and `layers` with every change. */
function render({ model, el }) {
  let stage = null;
  const begin = () => {
    stage?.stop();
    const root = make("div");
    el.replaceChildren(root);
    stage = show(root, model.get("scene"), (message) => model.send(message));
    change();
  };
  const change = () => stage.tool?.update?.(model.get("state"));
  const extend = () => stage.setLayers(model.get("layers"));
  model.on("change:scene", begin);
  model.on("change:state", change);
  model.on("change:layers", extend);
  begin();
  return () => stage.stop();
}

export default { render };
