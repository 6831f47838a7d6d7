"""COVID chest X-rays: five base learners and an ensemble that learns whom to trust (Qiao et al., 2020)."""
