//! What a control loop is: ControlLoop, Plan and the Env (time and randomness) handed in.
